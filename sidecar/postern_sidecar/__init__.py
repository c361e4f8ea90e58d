"""Postern's data plane: the real client inbound, DANE outbound, beside a mail server that knows neither."""
