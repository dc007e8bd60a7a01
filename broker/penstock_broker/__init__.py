"""The broker: one journal, queues and topics as views over it. See ARCHITECTURE at the root."""
