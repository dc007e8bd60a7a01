"""Other brokers under the same load: one module each, with its server and its adapter."""
