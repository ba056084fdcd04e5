"""The pages: HTML made here from the same functions as the REST routes; what scripts redraw, they fetch from these routes."""
