#pragma once

#include "models/model.h"

namespace minimo {

extern const ModelFamily kMiMoV2Flash;

}  // namespace minimo
