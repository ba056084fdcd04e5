"""The ground of routes and pages: callers, addresses, limits, ETags, errors, templates."""
