"""Tools for a data directory, from outside and without a broker: dump, doctor, repair and backup."""
