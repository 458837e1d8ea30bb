"""The process beside user code: fetch, set up, start, beat, spool, upload, report the end. Standard library only, Python 3.9."""
