"""The shell: sockets, threads, signals and the event loop around a core that has none of them."""
