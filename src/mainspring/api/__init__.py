"""The HTTP door: routers by noun, authentication, uploads, streams, the gateway to endpoints. No logic."""
