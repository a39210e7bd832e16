#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <set>
#include <vector>

#include "engines/torch/shape_bucket.h"

using namespace isthmus;
using isthmus::torch_engine::shape_bucket;

namespace {

/// A tensor on a GPU, whose memory must not be read.
Tensor on_gpu(DType dtype, Shape shape, int index = 0) {
  static std::array<float, 4> never_read{};
  return Tensor::wrap(never_read.data(), dtype, std::move(shape), nullptr,
                      {DeviceType::kCuda, index});
}

std::string bucket(const std::vector<Tensor>& inputs, std::size_t method = 0) {
  return shape_bucket(method, inputs);
}

}  // namespace

TEST_CASE("calls of one shape share a bucket, with any values on the device") {
  CHECK(bucket({on_gpu(DType::kFloat32, {2, 2})}) == bucket({on_gpu(DType::kFloat32, {2, 2})}));
  const auto values = std::make_unique<std::array<float, 4>>();
  const Tensor elsewhere =
      Tensor::wrap(values->data(), DType::kFloat32, {2, 2}, nullptr, {DeviceType::kCuda, 0});
  CHECK(bucket({elsewhere}) == bucket({on_gpu(DType::kFloat32, {2, 2})}));
}

TEST_CASE("method, shape, rank, dtype, device and absence each make another bucket") {
  const std::vector<std::vector<Tensor>> all{{},
                                             {Tensor()},
                                             {Tensor(), on_gpu(DType::kFloat32, {2, 2})},
                                             {on_gpu(DType::kFloat32, {2, 2}), Tensor()},
                                             {on_gpu(DType::kFloat32, {2, 2})},
                                             {on_gpu(DType::kFloat32, {1, 4})},
                                             {on_gpu(DType::kFloat32, {4, 1})},
                                             {on_gpu(DType::kFloat32, {4})},
                                             {on_gpu(DType::kFloat16, {2, 2})},
                                             {on_gpu(DType::kBFloat16, {2, 2})},
                                             {on_gpu(DType::kFloat32, {2, 2}, 1)}};
  std::set<std::string> keys;
  for (const auto& inputs : all)
    for (const std::size_t method : {0, 1}) keys.insert(bucket(inputs, method));
  CHECK(keys.size() == 2 * all.size());
}

TEST_CASE("values on the CPU are part of the bucket") {
  const Tensor x = on_gpu(DType::kFloat32, {2, 2});
  CHECK(bucket({x, Tensor::scalar<std::int64_t>(3)}) ==
        bucket({x, Tensor::scalar<std::int64_t>(3)}));
  CHECK(bucket({x, Tensor::scalar<std::int64_t>(3)}) !=
        bucket({x, Tensor::scalar<std::int64_t>(4)}));
  CHECK(bucket({x, Tensor::scalar<bool>(true)}) != bucket({x, Tensor::scalar<bool>(false)}));
  CHECK(bucket({x, Tensor::empty(DType::kFloat32, {0})}) != bucket({x, Tensor()}));
}
