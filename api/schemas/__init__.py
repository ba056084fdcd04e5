"""What the API takes and answers, as pydantic models: the source of the OpenAPI document, and what the Python client gives."""
