"""What units do on data: traced values and module hooks, batch by batch, and their second moments."""
