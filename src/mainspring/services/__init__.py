"""Use cases, one module a noun: authorise, validate, write intent and event in one transaction, hint the loops."""
