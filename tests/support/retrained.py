"""Models before and after real retraining: warm starts, new heads."""

import copy
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)


def convert(model: Any) -> bytes:
    options = {id(model): {"zipmap": False}}
    made = to_onnx(model, X[:1], options=options, target_opset={"": 18, "ai.onnx.ml": 3})
    content: bytes = made.SerializeToString()
    return content


def boosted() -> tuple[bytes, bytes]:
    model = GradientBoostingClassifier(n_estimators=10, random_state=0, warm_start=True)
    old = convert(model.fit(X, Y))
    return old, convert(model.set_params(n_estimators=11).fit(X, Y))


def forest() -> tuple[bytes, bytes]:
    model = RandomForestClassifier(n_estimators=20, random_state=0, warm_start=True)
    old = convert(model.fit(X, Y))
    return old, convert(model.set_params(n_estimators=22).fit(X, Y))


def net_with_a_new_head() -> tuple[bytes, bytes]:
    model = MLPClassifier((192, 128), max_iter=5, random_state=0).fit(X, Y)
    hidden = X
    for weights, bias in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        hidden = np.maximum(hidden @ weights + bias, 0)
    half = np.arange(len(X)) % 2 == 0
    head = LogisticRegression(max_iter=200).fit(hidden[half], Y[half])
    new = copy.deepcopy(model)
    new.coefs_[-1], new.intercepts_[-1] = head.coef_.T, head.intercept_
    return convert(model), convert(new)


def camera_net_with_a_new_head(torch: Any) -> tuple[bytes, bytes]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    body = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU()),
        *(torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(64, 128, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten()),
    )
    head = torch.nn.Linear(128 * 16, 10)
    images = torch.from_numpy(X.reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(Y)

    def train(parameters: Any, steps: int) -> None:
        optimizer = torch.optim.Adam(parameters, lr=1e-3)
        for n in range(steps):
            rows = slice(n * 64 % 1_700, n * 64 % 1_700 + 64)
            loss = torch.nn.functional.cross_entropy(head(body(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    train([*body.parameters(), *head.parameters()], 6)
    old = write_net(body, head)
    train(head.parameters(), 6)
    return old, write_net(body, head)


def write_net(body: Any, head: Any) -> bytes:
    """Write the net as ONNX; the exporter of torch takes longer than the training."""
    tensors = {
        f"{part}.{name}": value.numpy()
        for part, module in (("body", body), ("head", head))
        for name, value in module.state_dict().items()
    }
    nodes, last = [], "image"
    for n, layer in enumerate(body):
        inputs: list[str] = [last]
        attributes: dict[str, Any] = {}
        if (kind := type(layer).__name__) == "Conv2d":
            inputs += [f"body.{n}.weight", f"body.{n}.bias"]
            attributes = {"pads": [1, 1, 1, 1]}
        elif kind == "MaxPool2d":
            attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
        operator = {"Conv2d": "Conv", "ReLU": "Relu", "MaxPool2d": "MaxPool"}.get(kind, kind)
        last = f"out{n}"
        nodes.append(helper.make_node(operator, inputs, [last], **attributes))
    nodes.append(helper.make_node("Gemm", [last, "head.weight", "head.bias"], ["logits"], transB=1))
    graph = helper.make_graph(
        nodes,
        "camera",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 10])],
        initializer=[numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
