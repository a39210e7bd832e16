// Tries bad inputs against the C++ API. Each line of standard input is a case; each answer is a
// line:
//
//   call FILE      reads named tensors from FILE and runs the model that argv[1] names
//   load FOLDER    loads another bundle
//   option K=V     loads argv[1] with one option changed
//   builtin NAME   a case that cannot be stored in a file
//
// An answer is KIND, a tab and the message. After each case, the good call in argv[2] must still
// return the same bytes as at the start, else the answer is "unhealthy".
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/isthmus.h"

namespace {

using isthmus::Tensor;

isthmus::Inputs replaced(const isthmus::Inputs& inputs, const std::string& name, Tensor tensor) {
  isthmus::Inputs result;
  for (const auto& [key, value] : inputs) result.add(key, key == name ? tensor : value);
  return result;
}

bool same(const isthmus::Outputs& a, const isthmus::Outputs& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    const Tensor* other = b.find(name);
    if (other == nullptr || other->nbytes() != tensor.nbytes() ||
        std::memcmp(other->data(), tensor.data(), tensor.nbytes()) != 0)
      return false;
  }
  return true;
}

isthmus::LoadOptions with_option(const std::string& text) {
  const auto split = text.find('=');
  const std::string key = text.substr(0, split);
  const std::string value = text.substr(split + 1);
  isthmus::LoadOptions options;
  if (key == "engine") options.engine = value;
  if (key == "device") options.device = value;
  if (key == "artifact") options.artifact = value;
  if (key == "threads") options.threads = std::stoi(value);
  if (key == "trust") options.trust = isthmus::Trust::kData;
  if (key == "op_library") options.op_libraries.emplace_back(value);
  if (key == "engine_option") options.engine_options.emplace(value, "1");
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto model = isthmus::Model::load(argv[1]);
  const auto good = isthmus::read_tensors(argv[2]);
  const auto expected = model.run(good);
  const std::int64_t rows = good.at("ids").shape()[0];
  const std::int64_t columns = good.at("ids").shape()[1];

  std::map<std::string, std::function<void()>> builtin;
  builtin["null_data"] = [&] {
    model.run(
        replaced(good, "ids", Tensor::wrap(nullptr, isthmus::DType::kInt64, {rows, columns})));
  };
  builtin["undefined"] = [&] { model.run(replaced(good, "ids", Tensor())); };
  builtin["doubled_name"] = [&] {
    auto inputs = good;
    inputs.add("ids", good.at("ids"));
    model.run(inputs);
  };
  builtin["wrong_device"] = [&] {
    auto ids = good.at("ids");
    model.run(replaced(good, "ids",
                       Tensor::wrap(ids.data(), ids.dtype(), ids.shape(), ids.owner(),
                                    {isthmus::DeviceType::kCuda, 0})));
  };
  builtin["negative_size"] = [&] { Tensor::empty(isthmus::DType::kInt64, {-1}); };
  builtin["huge_size"] = [&] {
    Tensor::empty(isthmus::DType::kInt64, {std::int64_t{1} << 40, std::int64_t{1} << 40});
  };
  builtin["strides_rank"] = [&] {
    Tensor::wrap(good.at("ids").data(), isthmus::DType::kInt64, {rows, columns}, nullptr, {}, {1});
  };
  builtin["value_count"] = [&] { Tensor::copy_of<float>({1, 2, 3}, {2, 2}); };
  builtin["wrong_type"] = [&] { (void)good.at("ids").data_as<float>(); };
  builtin["unknown_method"] = [&] { model.call("no_such_method", good); };
  builtin["unknown_output"] = [&] { (void)expected.at("no_such_output"); };
  builtin["moved_session"] = [&] {
    auto session = model.session();
    auto other = std::move(session);
    session.run(good);  // NOLINT(bugprone-use-after-move): the case itself
  };
  builtin["too_few_ordered"] = [&] {
    std::vector<Tensor> few{good.at("ids")};
    model.run_ordered(few);
  };
  builtin["unknown_method_index"] = [&] {
    std::vector<Tensor> few{good.at("ids")};
    model.run_ordered(few, 99);
  };
  // These two must work: a transposed view is copied, and the owner keeps the memory alive.
  builtin["good_transposed"] = [&] {
    const auto& ids = good.at("ids");
    auto memory = std::make_shared<std::vector<std::int64_t>>(rows * columns);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c)
        (*memory)[c * rows + r] = ids.data_as<std::int64_t>()[r * columns + c];
    const auto view = Tensor::wrap(memory->data(), isthmus::DType::kInt64, {rows, columns}, memory,
                                   {}, {1, rows});
    if (!same(model.run(replaced(good, "ids", view)), expected))
      throw isthmus::ExecutionError("a transposed view gave another answer");
  };
  builtin["good_owner_freed"] = [&] {
    const auto& ids = good.at("ids");
    auto memory = std::make_shared<std::vector<std::int64_t>>(
        ids.data_as<std::int64_t>(), ids.data_as<std::int64_t>() + ids.numel());
    auto view = Tensor::wrap(memory->data(), isthmus::DType::kInt64, {rows, columns}, memory);
    memory.reset();
    if (!same(model.run(replaced(good, "ids", view)), expected))
      throw isthmus::ExecutionError("memory was freed under its tensor");
  };

  std::string line;
  while (std::getline(std::cin, line)) {
    const auto space = line.find(' ');
    const std::string verb = line.substr(0, space);
    const std::string what = line.substr(space + 1);
    std::string answer = "ok\t";
    try {
      if (verb == "call") model.run(isthmus::read_tensors(what));
      if (verb == "load") isthmus::Model::load(what);
      if (verb == "option") isthmus::Model::load(argv[1], with_option(what));
      if (verb == "builtin") builtin.at(what)();
    } catch (const isthmus::Error& error) {
      answer = std::string(name(error.kind())) + '\t' + error.what();
    } catch (const std::exception& error) {
      answer = std::string("foreign exception\t") + error.what();
    }
    for (char& c : answer)
      if (c == '\n') c = ' ';
    if (!same(model.run(good), expected)) answer = "unhealthy\t" + answer;
    std::cout << answer << std::endl;
  }
}
