"""What datasets are made of: the interface, file lists, masks, resizing, parallel reading."""
