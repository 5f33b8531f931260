"""The operations of a TensorFlow graph: which ones only compute with numbers, and which could do anything else.

TensorFlow's registry holds for every operation whether it has side effects, and the types of its inputs. An operation
without side effects is harmless if it also takes no text, neither as an input nor as an attribute: without a name it
can reach no file, address or Python function. A list holds the operations with side effects that networks need.
"""

from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import op_def_registry

# Their only effects are on the program's variables, the state of random numbers, or the order of operations.
STATEFUL = set(
    "VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp VarIsInitializedOp "
    "VariableShape DisableCopyOnRead ResourceGather ResourceGatherNd ResourceScatterAdd ResourceScatterUpdate "
    "ResourceStridedSliceAssign StatefulPartitionedCall If While Case Assert CheckNumerics CheckNumericsV2 "
    "GuaranteeConst Empty DeepCopy RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal RandomShuffle "
    "RandomGamma RandomPoissonV2 Multinomial ParameterizedTruncatedNormal StatelessRandomGetAlg StatefulUniform "
    "StatefulUniformInt StatefulUniformFullInt StatefulStandardNormalV2 StatefulTruncatedNormal RngSkip "
    "RngReadAndSkip CudnnRNNV3 IsTensorFloat32Enabled".split()
)
# Text attributes that set how something is computed.
WORDS = set(
    "equation interpolation fill_mode config config_proto executor_type message kernel_type data_format src_format "
    "dst_format bad_indices_policy noise".split()
)
# Attributes of functions and nodes of an export, beside those of the operation. By others, such as `api_implements`,
# TensorFlow replaces one function by another while it optimises the graph.
MARKS = set(
    "_input_shapes _output_shapes _construction_context _noinline _class _collective_manager_ids _gradient_op_type "
    "_has_manual_control_dependencies _lower_using_switch_merge _num_original_outputs _read_only_resource_inputs "
    "_xla_propagate_compile_time_consts _XlaMustCompile _disable_acd _stateful_parallelism _user_specified_name "
    "forward_function_name backward_function_name".split()
)
# Prefixes of operations for special devices and runtimes, or not meant for graphs in files.
FAMILIES = ("_", "Xla", "TPU", "Tpu", "Nccl", "DTensor", "Collective", "Debug", "Copy")
# Only the functions that save and restore variables may have these.
SAVING = set("SaveV2 RestoreV2 ShardedFilename MergeV2Checkpoints StringJoin StaticRegexFullMatch".split())


def foreign_operation(graph):
    """The first operation of a graph that could do anything but compute, in words; empty if all only compute.

    Args:
        graph: `MetaGraphDef`. The functions named by its `saver_def` may save and restore if nothing else calls them.
    """
    functions = [(function.signature.name, function.node_def) for function in graph.graph_def.library.function]
    names, saver = {name for name, _ in functions}, _saver(graph)
    if len(names) < len(functions):
        return "two functions of one name"
    for function in graph.graph_def.library.function:
        attributes = (function.attr, *(argument.attr for argument in function.arg_attr.values()))
        if marks := set().union(*attributes) - MARKS:
            return f"the attribute {min(marks)} of its function {function.signature.name}"
    for name, nodes in [(None, graph.graph_def.node), *functions]:
        where = "" if name is None else f" in its function {name}"
        if name is not None and op_def_registry.get(name) is not None:
            return f"a function by the name of the operation {name}"
        allowed = SAVING if name in saver else ()
        for node in nodes:
            if node.op not in allowed and node.op not in names and not _is_harmless(node.op):
                return f"the operation {node.op}{where}"
            if marks := set(node.attr) - _attributes_of(node.op) - MARKS:
                return f"the attribute {min(marks)} of {node.op}{where}"
            called = _functions_of(node)
            if not called <= names:  # an operation, or a function of the program that loads the graph
                return f"a call of {min(called - names)}{where}"
            if name is not None and saver & {node.op, *called}:
                return f"a call of the function that saves its variables{where}"
    return ""


def _saver(graph):
    """Names of the functions that save and restore, unless Python or a gradient can reach them."""
    tensors = (graph.saver_def.save_tensor_name, graph.saver_def.restore_op_name)
    wanted = {name.partition(":")[0] for name in tensors if name}
    named = set().union(*(_functions_of(node) for node in graph.graph_def.node if node.name in wanted))
    library, objects = graph.graph_def.library, graph.object_graph_def
    reached = {*objects.concrete_functions, *(gradient.gradient_func for gradient in library.gradient)}
    reached |= {gradient.gradient_func for gradient in library.registered_gradients}
    for node in objects.nodes:
        reached |= {*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name}
        reached |= {node.captured_tensor.concrete_function}
    return named - reached


def _functions_of(node):
    """Names of the functions that a node calls, or passes to the operation that it calls."""
    found, waiting = set(), list(node.attr.values())
    while waiting:
        value = waiting.pop()
        for called in (value.func, *value.list.func) if value.WhichOneof("value") in ("func", "list") else ():
            if called.name:
                found.add(called.name)
            waiting += called.attr.values()
    return found


def _attributes_of(name):
    """Names of an operation's attributes in TensorFlow's registry; empty for a function."""
    operation = op_def_registry.get(name)
    return set() if operation is None else {each.name for each in operation.attr}


def _is_harmless(name):
    operation = op_def_registry.get(name)
    if operation is None or name.startswith(FAMILIES) or "Dataset" in name or "Iterator" in name:
        return False
    if operation.is_stateful:
        return name in STATEFUL
    texts = [each for each in operation.attr if each.type.endswith(("string", "string)"))]
    free = {each.name for each in texts if not each.HasField("allowed_values")}
    return free <= WORDS and all(each.type != types_pb2.DT_STRING and not each.is_ref for each in operation.input_arg)
