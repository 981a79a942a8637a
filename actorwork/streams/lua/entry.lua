-- The fields of an entry, and the forms in which it is written again: as a retry, as a dead letter. (A part: scripts begin
-- with the parts they need.)

local MOST_VALUES = 7000 -- How many values `unpack` can pass: Lua's stack takes some 8000.

local function problem_of(reply)
  return type(reply) == 'table' and reply.err or nil
end

-- The fields of an entry, or nil if it was deleted by hand.
local function fields_of(stream, id)
  local found = redis.call('XRANGE', stream, id, id)
  return found[1] and found[1][2]
end

-- The names of our fields in an entry. An entry without `data` comes from a foreign producer, whose own fields may be called
-- `id` or `group`, so ours have longer names there.
local function names_in(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'data' then
      return 'id', 'headers', 'group'
    end
  end
  return 'actorwork:id', 'actorwork:headers', 'actorwork:group'
end

-- A copy of the fields with other headers (a JSON object, or '' for none), for one group only, under the same message id.
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

-- Adds the entry by which the actor of a group learns that a message has failed, unless the message is such an entry itself:
-- the same fields under the same id, without what the message held, and with the failure (JSON) in its headers. They are
-- not decoded: cjson would change numbers in them. Those that are no object are left out: they may be why it has failed, and
-- an entry that cannot be read would be followed by the next. Returns an error, if there is one.
--
-- What is in the headers besides, such as the address of the sender that waits, is ignored when the entry is read.
local function tell_failure(stream, fields, message_id, group, failure)
  local id_name, headers_name, group_name = names_in(fields)
  local copy, headers, key = {}, '', nil
  for i = 1, #fields, 2 do
    local name = fields[i]
    if name == headers_name then
      headers = fields[i + 1]
    elseif name == 'key' and id_name == 'id' then
      key = fields[i + 1]
    elseif name ~= id_name and name ~= group_name
      and (id_name ~= 'id' or name ~= 'unique' and name ~= 'claim' and name ~= 'expires') then
      copy[#copy + 1] = name
      copy[#copy + 1] = fields[i + 1]
    end
  end
  if string.find(headers, '"actorwork-failed":', 1, true) then
    return nil
  end
  if key then -- The delivery that tells it has none: it does not wait in line. An entity wants to know it.
    failure = string.sub(failure, 1, -2) .. ',"key":' .. cjson.encode(key) .. '}'
  end
  local good, known = pcall(cjson.decode, headers)
  local rest = good and type(known) == 'table' and string.match(headers, '^%s*{%s*(.-)%s*$')
  headers = '{"actorwork-failed":' .. failure .. (rest and rest ~= '}' and ',' .. rest or '}')
  for _, value in ipairs({ id_name, message_id, headers_name, headers, group_name, group }) do
    copy[#copy + 1] = value
  end
  if #copy > MOST_VALUES then
    return 'an entry with ' .. #copy / 2 .. ' fields cannot be added again'
  end
  return problem_of(redis.pcall('XADD', stream, '*', unpack(copy)))
end

-- The member of a message that waits for one group: a retry (each group may have its own), or a dead letter that is sent
-- again. `entry` distinguishes messages with the same id for the same group.
local function member_for(prefix, message_id, group, entry)
  local member = message_id .. '/' .. group
  for _, store in ipairs({ 'delayed:messages', 'waiting' }) do
    if redis.call('HEXISTS', prefix .. store, member) == 1 then
      return member .. '/' .. entry
    end
  end
  return member
end

-- Adds an entry to the dead letters; `facts` are the fields with the reasons. More fields than one call takes are packed
-- into one field: a dead letter must not be lost because a foreign producer wrote thousands of fields. The source keeps its
-- last `most` dead letters, and of these only those since `oldest` (ms since the epoch).
local function add_dead_letter(prefix, facts, fields, most, oldest)
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
