#pragma once

#include <openvino/c/openvino.h>

#include <filesystem>
#include <memory>
#include <string>

#include "isthmus/options.h"

namespace isthmus::openvino_engine {

/// The functions of OpenVINO's C API that the engine calls, set when the library is opened.
struct Api {
#define ISTHMUS_OPENVINO_FUNCTIONS(each)             \
  each(ov_get_openvino_version);                     \
  each(ov_version_free);                             \
  each(ov_get_last_err_msg);                         \
  each(ov_free);                                     \
  each(ov_core_create);                              \
  each(ov_core_free);                                \
  each(ov_core_set_property);                        \
  each(ov_core_add_extension);                       \
  each(ov_core_read_model);                          \
  each(ov_core_read_model_from_memory_buffer);       \
  each(ov_core_compile_model);                       \
  each(ov_model_free);                               \
  each(ov_compiled_model_free);                      \
  each(ov_compiled_model_get_property);              \
  each(ov_compiled_model_create_infer_request);      \
  each(ov_infer_request_free);                       \
  each(ov_compiled_model_input_by_name);             \
  each(ov_output_const_port_free);                   \
  each(ov_infer_request_set_tensor_by_const_port);   \
  each(ov_infer_request_infer);                      \
  each(ov_infer_request_start_async);                \
  each(ov_infer_request_wait);                       \
  each(ov_infer_request_set_callback);               \
  each(ov_infer_request_get_output_tensor_by_index); \
  each(ov_tensor_create_from_host_ptr);              \
  each(ov_tensor_free);                              \
  each(ov_tensor_get_shape);                         \
  each(ov_tensor_get_size);                          \
  each(ov_tensor_get_element_type);                  \
  each(ov_tensor_data);                              \
  each(ov_shape_free)
#define ISTHMUS_OPENVINO_MEMBER(name) decltype(&::name) name = nullptr
  ISTHMUS_OPENVINO_FUNCTIONS(ISTHMUS_OPENVINO_MEMBER);
#undef ISTHMUS_OPENVINO_MEMBER
};

/// The opened shared library of OpenVINO.
struct Library {
  Api api;
  std::filesystem::path path;
  std::string version;  ///< "2026.4.1"
  std::string origin;   ///< the place where it was found, for messages
};

/// Finds libopenvino_c (see `find_library`; the environment variable is ISTHMUS_OPENVINO) and opens
/// it, once per process.
/// @throws EngineUnavailable when it is not found, has another major version, or is older than the
/// headers.
const Library& open_library(const LoadOptions& options);

/// Requires that a call of the C API succeeded. `what` names the call.
/// @throws std::runtime_error with OpenVINO's message.
void require(const Api& api, ov_status_e status, const char* what);

/// Owns an object of the C API.
template <typename T>
using Handle = std::unique_ptr<T, void (*)(T*)>;

}  // namespace isthmus::openvino_engine
