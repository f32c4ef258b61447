"""The text that the demo model learns from: documents of made-up facts, and talk about them."""
