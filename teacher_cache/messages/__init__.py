"""What people read: strangers' strings made safe, the nearest names, tables and progress."""
