"""What users import; `mainspring/__init__.py` hands it out lazily."""
