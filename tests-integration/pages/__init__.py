"""What the pages and the example programs say is true."""
