"""The vocabulary: ids, units, resources, specs, records, lifecycle tables, the backend contract, events, reasons, errors."""
