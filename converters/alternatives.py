"""What to use in place of scikit-learn's estimators that have no converter."""

_INSTEAD = {
    "ClassifierChain": "MultiOutputClassifier",
    "DummyClassifier": "no model: its answer is a constant",
    "DummyRegressor": "no model: its answer is a constant",
    "NearestCentroid": "LinearDiscriminantAnalysis or KNeighborsClassifier",
    "LabelPropagation": "KNeighborsClassifier fitted on its transduction_",
    "LabelSpreading": "KNeighborsClassifier fitted on its transduction_",
    "OutputCodeClassifier": "OneVsRestClassifier",
    "KernelRidge": "SVR or GaussianProcessRegressor",
    "EllipticEnvelope": "IsolationForest or OneClassSVM",
    "AffinityPropagation": "KMeans",
    "Birch": "KMeans",
    "BisectingKMeans": "KMeans",
    "MeanShift": "KMeans",
    "NMF": "PCA or TruncatedSVD",
    "MiniBatchNMF": "PCA or TruncatedSVD",
    "DictionaryLearning": "PCA",
    "MiniBatchDictionaryLearning": "PCA",
    "SparseCoder": "PCA",
    "LatentDirichletAllocation": "TruncatedSVD",
    "Isomap": "KernelPCA",
    "LocallyLinearEmbedding": "KernelPCA",
    "Nystroem": "SVC or SVR with the same kernel",
    "AdditiveChi2Sampler": "SVC or SVR with a kernel",
    "SkewedChi2Sampler": "SVC or SVR with a kernel",
    "PolynomialCountSketch": "PolynomialFeatures",
    "SplineTransformer": "PolynomialFeatures or KBinsDiscretizer",
    "BernoulliRBM": "MLPClassifier",
    "RadiusNeighborsTransformer": "KNeighborsTransformer",
    "KNNImputer": "SimpleImputer",
    "RandomTreesEmbedding": "RandomForestClassifier or RandomForestRegressor",
}


def find_advice(name: str) -> str:
    """Give the next step for an estimator that does not convert.

    >>> find_advice("KernelRidge")
    'Use SVR or GaussianProcessRegressor.'
    """
    if name in _INSTEAD:
        return f"Use {_INSTEAD[name]}."
    return "docs/conversion.md lists what converts."
