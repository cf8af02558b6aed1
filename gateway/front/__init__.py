"""The listener and the edges of HTTP: connections, heads, bodies, origins, who a peer is."""
