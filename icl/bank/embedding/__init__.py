"""From images and texts to embeddings, and from embeddings to points: an embedder, a lift, and how it is learned."""
