"""What is built is fit to be published."""
