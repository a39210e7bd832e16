#pragma once

#include <caffe2/serialize/read_adapter_interface.h>

#include <algorithm>
#include <cstring>

#include "isthmus/bundle.h"

namespace isthmus::torch_engine {

/// Lets LibTorch read an archive from the bytes that were verified instead of from the file.
class BytesReader final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit BytesReader(FileBytes bytes) : bytes_(std::move(bytes)) {}

  [[nodiscard]] std::size_t size() const override { return bytes_.size; }

  std::size_t read(std::uint64_t position, void* to, std::size_t count,
                   const char* /*what*/) const override {
    if (position >= bytes_.size) return 0;
    count = std::min<std::uint64_t>(count, bytes_.size - position);
    std::memcpy(to, bytes_.data.get() + position, count);
    return count;
  }

 private:
  FileBytes bytes_;
};

}  // namespace isthmus::torch_engine
