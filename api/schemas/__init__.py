"""Bodies and answers of the API as pydantic models: the source of the OpenAPI document, and the Python client's answers."""
