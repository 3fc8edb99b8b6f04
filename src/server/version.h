#pragma once

namespace minimo::server {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace minimo::server
