"""The face of radixserve: command line, HTTP, server-sent events. It imports the engine, never the
other way round."""
