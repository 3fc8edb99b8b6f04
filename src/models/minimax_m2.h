#pragma once

#include "models/model.h"

namespace minimo {

extern const ModelFamily kMiniMaxM2;

}  // namespace minimo
