-- Whether a settlement can publish. (A part: scripts begin with the parts they need.)

local known_problems = {}

-- Why nothing can be published to a source; '' if it can. Asked once for each source of a batch. The code NOPERM marks a right
-- that may be given back: the node tries again for a minute.
local function problem_with(source, prefix)
  local known = known_problems[source]
  if known == nil then
    local found = redis.pcall('TYPE', source)
    if found.err then
      known = 'the source ' .. source .. ': ' .. found.err
    elseif found.ok ~= 'none' and found.ok ~= 'stream' then
      known = 'WRONGTYPE the source ' .. source .. ' is no stream'
    elseif not may('XADD', source, '0-0', 'data', '') then
      known = 'NOPERM the source ' .. source .. ': this user may not add to it (XADD)'
    elseif not may('SET', prefix .. 'seen:', '') then
      known = 'NOPERM the source ' .. source .. ': this user may not write keys that begin with ' .. prefix
    else
      known = ''
    end
    known_problems[source] = known
  end
  return known
end

local looked_at = {} -- Sources whose last id is known.
local LAST_ID = '18446744073709551615-18446744073709551615'

-- The same for a delivery that cannot come back once the first message is tried, so that no refusal may be left to find out:
-- it also looks at the last id of the stream (XSETID, or a producer that chose ids, may have used the last one that there is),
-- which costs as much as reading two entries, once for each source, and at each right that any message may need. Returns the
-- problem, or '', and the right that is lacking.
local function problem_for_good_with(source, prefix)
  local problem = problem_with(source, prefix)
  if problem == '' and not looked_at[source] then
    looked_at[source] = true
    local found = redis.pcall('XINFO', 'STREAM', source)
    if not found.err and by_name(found)['last-generated-id'] == LAST_ID then
      known_problems[source] = 'the source ' .. source .. ': its last id is exhausted'
      problem = known_problems[source]
    end
  end
  return problem, lacks('mark of ' .. prefix, needs_of_mark, prefix) or lacks('order of ' .. prefix, needs_of_order, prefix)
    or lacks('delay of ' .. prefix, needs_of_delay, prefix)
end
