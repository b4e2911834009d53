"""Names that options take, as types; `typing.get_args` lists them, and tests hold them to the tables of the rooms.

They lie below all rooms, because importing a room imports torch, and the command line must know them without it.
"""

from __future__ import annotations

from typing import Literal

Net = Literal["mlp", "convnet", "resnet", "vit", "gpt", "llama"]
Activation = Literal["relu", "leaky_relu", "tanh", "erf", "sigmoid", "softplus", "gelu", "silu", "elu", "identity"]
Optimizer = Literal["adam", "adamw", "sgd"]
RateSchedule = Literal["constant", "cosine"]
Task = Literal["classification", "regression", "multilabel", "next-token"]
Scaled = Literal["auto", "none", "standardize"]
Layout = Literal["auto", "channels-first", "channels-last", "rows"]
Shuffle = Literal["independent", "shared"]
Subset = Literal["full", "bootstrap", "disjoint", "dirichlet"]

Grounding = Literal["activations", "weights"]
Distance = Literal["activation", "cosine", "l2"]
Clusterer = Literal["ward", "average", "two-stage", "kmeans", "hdbscan"]
Correction = Literal["none", "moments", "least-squares", "second-order", "distill"]
Pooling = Literal["mean", "class-share"]
Grouping = Literal["co-activation", "random"]
RoutedCorrection = Literal["none", "least-squares", "distill"]

Rule = Literal["plateau", "published"]
Null = Literal["permute", "permute-nonzero", "degree-preserving"]
Scale = Literal["balanced", "as-given"]
ClusteringMeasure = Literal["adjusted_rand", "rand", "adjusted_mutual_information", "variation_of_information"]
ActivationMeasure = Literal["cka", "unbiased_cka", "procrustes", "rsa"]
SampleClusterer = Literal["kmeans", "ward", "gmm", "hdbscan", "spectral"]
Reduction = Literal["pca", "none", "umap"]
Positions = Literal["flatten", "pool", "rows"]
Placement = Literal["pca", "tsne"]
