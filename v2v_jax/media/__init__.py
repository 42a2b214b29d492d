"""Files of video, pictures and flow."""
