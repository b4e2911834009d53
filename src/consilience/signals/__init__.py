"""Responses of units to data: traced values and module hooks, batch by batch, and their second moments."""
