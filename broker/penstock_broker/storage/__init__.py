"""The engine: files, bytes and positions. It knows nothing of queues, topics, sockets or asyncio."""
