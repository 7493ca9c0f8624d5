"""The parts that trace and compile with torch."""
