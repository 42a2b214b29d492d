"""What every program needs: console, files, jobs, devices, threads."""
