"""The process inside a replica of an endpoint: loads one model folder and answers predictions over HTTP."""
