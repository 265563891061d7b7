"""The bundled recipes, one TOML file a data set."""
