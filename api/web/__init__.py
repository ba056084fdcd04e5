"""What every route and page stands on: who asks, addresses, limits, ETags, errors, templates."""
