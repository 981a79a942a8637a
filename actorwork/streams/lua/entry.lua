-- What can happen to an entry that a group was given. (A part: scripts begin with the parts they need.)

local MOST_VALUES = 7000 -- How many fit at all: Lua's stack takes some 8000.

local function problem_of(reply)
  return type(reply) == 'table' and reply.err or nil
end

-- The fields of an entry, or nil when it was deleted by somebody.
local function fields_of(stream, id)
  local found = redis.call('XRANGE', stream, id, id)
  return found[1] and found[1][2]
end

-- The names under which an entry carries what is ours: an entry without `data` is a foreign producer's, whose own fields may
-- well be called `id` or `group`.
local function names_in(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'data' then
      return 'id', 'headers', 'group'
    end
  end
  return 'actorwork:id', 'actorwork:headers', 'actorwork:group'
end

-- The fields again, with other headers (a JSON object, or '' for none), for one group alone, under the same message id.
local function readdressed(fields, message_id, headers, group)
  local id_name, headers_name, group_name = names_in(fields)
  local copy = { id_name, message_id }
  for i = 1, #fields, 2 do
    local name = fields[i]
    if name ~= id_name and name ~= headers_name and name ~= group_name then
      copy[#copy + 1] = name
      copy[#copy + 1] = fields[i + 1]
    end
  end
  if headers ~= '' then
    copy[#copy + 1] = headers_name
    copy[#copy + 1] = headers
  end
  copy[#copy + 1] = group_name
  copy[#copy + 1] = group
  return copy
end

-- The member under which a message waits that is meant for one group: retries, of which each group may have its own, and
-- dead letters that are sent again. `entry` tells apart what has the same id for the same group.
local function member_for(prefix, message_id, group, entry)
  local member = message_id .. '/' .. group
  for _, store in ipairs({ 'delayed:messages', 'waiting' }) do
    if redis.call('HEXISTS', prefix .. store, member) == 1 then
      return member .. '/' .. entry
    end
  end
  return member
end

-- Keeps an entry as a dead letter; `facts` are the fields that say why. More fields than a call takes are kept in one.
-- Of the source's letters the last `most` stay, as far as they came since `oldest` (ms since the epoch).
local function bury(prefix, facts, fields, most, oldest)
  if #fields > MOST_VALUES then
    local parts = {}
    for i = 1, #fields do
      parts[i] = #fields[i] .. ':' .. fields[i]
    end
    facts[#facts + 1] = 'packed'
    facts[#facts + 1] = table.concat(parts)
  else
    for i = 1, #fields, 2 do
      facts[#facts + 1] = 'm:' .. fields[i]
      facts[#facts + 1] = fields[i + 1]
    end
  end
  redis.call('XADD', prefix .. 'dead', 'MAXLEN', most, '*', unpack(facts))
  redis.call('XTRIM', prefix .. 'dead', 'MINID', oldest)
end
