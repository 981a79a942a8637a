-- Whether a settlement can publish. (A part: scripts begin with the parts they need.)

local known_problems = {}

-- Why nothing can be published to a source; '' if it can. Asked once for each source of a batch.
local function problem_with(source)
  local known = known_problems[source]
  if known == nil then
    local found = redis.pcall('TYPE', source)
    if found.err then
      known = 'the source ' .. source .. ': ' .. found.err
    elseif found.ok == 'none' or found.ok == 'stream' then
      known = ''
    else
      known = 'WRONGTYPE the source ' .. source .. ' is no stream'
    end
    known_problems[source] = known
  end
  return known
end
