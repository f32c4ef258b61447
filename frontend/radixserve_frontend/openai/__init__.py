"""OpenAI's HTTP dialect: requests in, engine requests out; deltas in, chunks and answers out."""
