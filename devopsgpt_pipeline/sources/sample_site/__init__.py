"""The library that ships with the package, served as a site without a network."""
