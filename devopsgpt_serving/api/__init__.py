"""HTTP: routes, schemas, errors, middleware, pages."""
