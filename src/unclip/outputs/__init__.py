"""What leaves the house: images with notes, sheets, animations."""
