"""What messages say: strangers' strings made safe, the nearest names, what a path is."""
