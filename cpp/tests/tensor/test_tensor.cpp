#include <doctest/doctest.h>

#include <limits>

#include "core/tensor/dlpack_abi.h"
#include "isthmus/error.h"
#include "isthmus/tensor.h"

using namespace isthmus;

namespace {

std::vector<float> values(const Tensor& tensor) {
  const float* data = tensor.data_as<float>();
  return {data, data + tensor.numel()};
}

}  // namespace

TEST_CASE("a default tensor is undefined") {
  const Tensor none;
  CHECK_FALSE(none.defined());
  CHECK_FALSE(static_cast<bool>(none));
}

TEST_CASE("copies share memory, copy_of does not") {
  std::vector<float> source{1, 2, 3, 4, 5, 6};
  const Tensor tensor = Tensor::copy_of(source, {2, 3});
  source[0] = 9;
  CHECK(values(tensor) == std::vector<float>{1, 2, 3, 4, 5, 6});
  const Tensor same = tensor;
  same.data_as<float>()[0] = 7;
  CHECK(values(tensor)[0] == 7);
  CHECK(tensor.nbytes() == 24);
  CHECK(tensor.rank() == 2);
  CHECK(tensor.describe() == "float32[2, 3] on cpu");
  CHECK(reinterpret_cast<std::uintptr_t>(tensor.data()) % 64 == 0);
}

TEST_CASE("impossible counts, sizes and pointers are refused") {
  const std::vector<float> three{1, 2, 3};
  CHECK_THROWS_AS(Tensor::copy_of(three, {2, 2}), InvalidInput);
  CHECK_THROWS_AS(Tensor::empty(DType::kFloat32, {-1}), InvalidInput);
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max() / 2;
  CHECK_THROWS_AS(Tensor::empty(DType::kFloat64, {huge, huge}), InvalidInput);
  CHECK_THROWS_AS(Tensor::wrap(nullptr, DType::kFloat32, {2}), InvalidInput);
  float data[4] = {};
  CHECK_THROWS_AS(Tensor::wrap(data, DType::kFloat32, {2, 2}, nullptr, {}, {1}), InvalidInput);
  CHECK(Tensor::wrap(nullptr, DType::kFloat32, {0, 3}).numel() == 0);
}

TEST_CASE("the owner is kept until the last copy is destroyed") {
  auto owner = std::make_shared<std::vector<float>>(4, 1.0f);
  const std::weak_ptr<void> watch = owner;
  {
    Tensor kept;
    {
      float* data = owner->data();
      const Tensor tensor = Tensor::wrap(data, DType::kFloat32, {4}, std::move(owner));
      kept = tensor;
    }
    CHECK_FALSE(watch.expired());
  }
  CHECK(watch.expired());
}

TEST_CASE("strided tensors become contiguous copies") {
  float data[6] = {1, 2, 3, 4, 5, 6};
  const Tensor turned = Tensor::wrap(data, DType::kFloat32, {3, 2}, nullptr, {}, {1, 3});
  CHECK_FALSE(turned.is_contiguous());
  CHECK_THROWS_AS(turned.data_as<float>(), InvalidInput);
  CHECK(values(turned.contiguous()) == std::vector<float>{1, 4, 2, 5, 3, 6});
  const Tensor plain = Tensor::wrap(data, DType::kFloat32, {2, 3}, nullptr, {}, {3, 1});
  CHECK(plain.is_contiguous());
  CHECK(plain.contiguous().data() == data);
  // A dimension of size 1 may have any stride.
  CHECK(Tensor::wrap(data, DType::kFloat32, {1, 6}, nullptr, {}, {99, 1}).is_contiguous());
}

TEST_CASE("a clone has contiguous memory of its own") {
  float data[4] = {1, 2, 3, 4};
  const Tensor view = Tensor::wrap(data, DType::kFloat32, {2, 2}, nullptr, {}, {1, 2});
  const Tensor plain = Tensor::wrap(data, DType::kFloat32, {2, 2});
  CHECK(values(view.clone()) == std::vector<float>{1, 3, 2, 4});
  CHECK(values(plain.clone()) == std::vector<float>{1, 2, 3, 4});
  CHECK(plain.clone().data() != data);
  CHECK_FALSE(Tensor().clone().defined());
  CHECK_THROWS_AS(
      (void)Tensor::wrap(data, DType::kFloat32, {2, 2}, nullptr, {DeviceType::kCuda, 0}).clone(),
      InvalidInput);
}

TEST_CASE("typed access is checked") {
  const Tensor tensor = Tensor::scalar<std::int64_t>(5);
  CHECK(tensor.rank() == 0);
  CHECK(tensor.item<std::int64_t>() == 5);
  CHECK_THROWS_AS(tensor.data_as<float>(), InvalidInput);
  CHECK_THROWS_AS(Tensor::copy_of({1.0f, 2.0f}, {2}).item<float>(), InvalidInput);
  const Tensor far =
      Tensor::wrap(tensor.data(), DType::kInt64, {1}, nullptr, {DeviceType::kCuda, 0});
  CHECK_THROWS_AS(far.data_as<std::int64_t>(), InvalidInput);
}

TEST_CASE("DLPack export and import do not copy") {
  const Tensor tensor = Tensor::copy_of({1.0f, 2.0f, 3.0f, 4.0f}, {2, 2});
  SUBCASE("unversioned") {
    const Tensor back = Tensor::from_dlpack(tensor.to_dlpack());
    CHECK(back.data() == tensor.data());
    CHECK(back.shape() == tensor.shape());
    CHECK(back.dtype() == DType::kFloat32);
  }
  SUBCASE("versioned") {
    const Tensor back = Tensor::from_dlpack(tensor.to_dlpack_versioned());
    CHECK(back.data() == tensor.data());
    CHECK(values(back) == values(tensor));
  }
  SUBCASE("unused") {
    auto* managed = tensor.to_dlpack();
    managed->deleter(managed);
  }
}

TEST_CASE("the deleter of an imported DLPack tensor runs once, with the last copy") {
  struct Foreign {
    dlpack::ManagedTensor managed;
    float data[4];
    std::int64_t shape[1];
    int* freed;
  };
  int freed = 0;
  const auto make = [&freed](dlpack::DLDataType dtype, dlpack::DLDevice device) {
    auto* foreign = new Foreign{{}, {1, 2, 3, 4}, {3}, &freed};
    foreign->managed.tensor = {foreign->data, device, 1, dtype, foreign->shape, nullptr, 4};
    foreign->managed.context = foreign;
    foreign->managed.deleter = [](dlpack::ManagedTensor* self) {
      auto* owner = static_cast<Foreign*>(self->context);
      ++*owner->freed;
      delete owner;
    };
    return &foreign->managed;
  };
  {
    Tensor copy;
    {
      const Tensor tensor = Tensor::from_dlpack(make({dlpack::kFloat, 32, 1}, {dlpack::kCpu, 0}));
      CHECK(values(tensor) == std::vector<float>{2, 3, 4});  // the byte offset counts
      copy = tensor;
    }
    CHECK(freed == 0);
  }
  CHECK(freed == 1);
  auto* lanes = make({dlpack::kFloat, 32, 4}, {dlpack::kCpu, 0});
  CHECK_THROWS_AS(Tensor::from_dlpack(lanes), InvalidInput);
  auto* odd = make({dlpack::kFloat, 24, 1}, {dlpack::kCpu, 0});
  CHECK_THROWS_AS(Tensor::from_dlpack(odd), InvalidInput);
  auto* elsewhere = make({dlpack::kFloat, 32, 1}, {99, 0});
  CHECK_THROWS_AS(Tensor::from_dlpack(elsewhere), InvalidInput);
  CHECK(freed == 4);  // refused tensors are freed too
}

TEST_CASE("a read-only tensor stays read-only through DLPack, and its copies do not") {
  const Tensor tensor = Tensor::copy_of({1.0F, 2.0F}, {2});
  CHECK_FALSE(Tensor::from_dlpack(tensor.to_dlpack_versioned()).read_only());
  const Tensor constant = tensor.as_read_only();
  CHECK(constant.data() == tensor.data());
  CHECK(Tensor::from_dlpack(constant.to_dlpack_versioned()).read_only());
  CHECK_FALSE(constant.clone().read_only());
}

TEST_CASE("named tensors are found by name, and errors list the names") {
  NamedTensors tensors{{"x", Tensor::scalar(1.0)}, {"y", Tensor::scalar(2.0)}};
  CHECK(tensors.at("y").item<double>() == 2.0);
  CHECK(tensors.find("z") == nullptr);
  CHECK_THROWS_WITH_AS(tensors.at("z"), doctest::Contains("x"), InvalidInput);
  tensors.add("z", Tensor());
  CHECK(tensors.size() == 3);
}
