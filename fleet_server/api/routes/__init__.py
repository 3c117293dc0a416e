"""Routes: parse, call one service, present."""
