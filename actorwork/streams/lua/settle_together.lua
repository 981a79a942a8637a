-- Settles the deliveries that one call of a handler has handled together, of any sources and priorities of one group, with
-- what that call published: all of it, or nothing.
--
-- KEYS  the record of the last batch, then the streams
-- ARGV  number of the batch, group, consumer, how many messages are published, for each: source, prefix, mark, bit, terms,
--       how many values, those values; then where it is noted that the batch is settled ('' for nowhere), how many deliveries
--       of it are in other slots of the cluster, for each: source, how many values, those values, which are what effects.lua
--       wants (streams/joint.py); then for each stream: the prefix of its source's keys, first and last id, how many
--       deliveries, for each: entry id, delivery count, message id, its key, its unique key ('' means none), outcome (JSON
--       or ''), how many ms to keep it ('' means not), the claim to its result, where to publish it ('' means nowhere), its
--       attempt ('' if it is not tracked), how many values say more of its life, those: field, value, ... (state.lua)
--
-- Returns the batch's number, which of the deliveries (0, 1, ...) are not ours any more, and {0, error} if what they publish
-- cannot be published; nothing was done if there is any of these. Last come notes, as of settle.lua.
--
-- A batch that needs a right which this user lacks is refused as a whole, with NOPERM, and is tried again.
--
-- Why all or nothing: what was published may come from all of these messages (a sum, say), so it belongs to none of them. If
-- they were settled stream by stream, a death in between would lose it or send it twice; if one of them belongs to another
-- node by now, it is handled there and would take part in two sums. So the others are then released, and run again.
--
-- The record makes the answer repeatable, as in settle.lua, and the rest follows it, too: whatever can be refused is checked
-- before the first write; deliveries that hold a key leave before the messages are published, all others afterwards.

local record = KEYS[1]
local number, group, consumer = ARGV[1], ARGV[2], ARGV[3]
local RECORD_MS = 3600000
local DECIDED_SECONDS = 86400

local kept = redis.call('GET', record)
if kept then
  local answer = cmsgpack.unpack(kept)
  if answer[1] == number then
    return answer
  end
end

local published = tonumber(ARGV[4])
local trouble, lacking = nil, nil
local i = 5
for _ = 1, published do
  local problem, right = problem_for_good_with(ARGV[i], ARGV[i + 1])
  if problem ~= '' then
    trouble = problem
  end
  lacking = lacking or right
  i = i + 6 + ARGV[i + 5]
end

local decided, elsewhere = ARGV[i], i + 2
i = i + 2
for _ = 1, ARGV[elsewhere - 1] do
  i = i + 2 + ARGV[i + 1]
end
if decided ~= '' then
  lacking = lacking or away.lacks() or not may('SET', decided, '', 'EX', 1) and 'NOPERM this user may not run SET on ' .. decided
end

local fenced, notes = {}, {}
local which = 0
local prefixes, given = {}, {} -- Of each stream, the latter where in ARGV its deliveries begin.
for s = 2, #KEYS do
  local mine, problem = fence(KEYS[s], group, consumer, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  if not mine then
    return redis.error_reply(problem)
  end
  lacking = lacking or lacks('ack of ' .. KEYS[s], needs_of_ack, KEYS[s], group)
    or #groups_found(KEYS[s]) > 1 and lacks('sharing of ' .. KEYS[s], needs_of_sharing, KEYS[s], group)
    or lacks('leaving of ' .. ARGV[i], needs_of_leaving, ARGV[i])
    or lacks('result of ' .. ARGV[i], needs_of_result, ARGV[i])
    or published > 0 and not may('XADD', KEYS[s], '0-0', 'data', '') and 'NOPERM this user may not run XADD on ' .. KEYS[s]
  prefixes[s], given[s] = ARGV[i], {}
  local d = i + 4
  for delivery = 1, tonumber(ARGV[i + 3]) do
    given[s][delivery] = d
    if not mine(ARGV[d], ARGV[d + 1]) then
      fenced[#fenced + 1] = which
    end
    which = which + 1
    d = d + 11 + ARGV[d + 10]
  end
  i = d
end

lacking = lacking or not may('SET', record, '', 'PX', 1) and 'NOPERM this user may not run SET on ' .. record
if lacking then
  return redis.error_reply(lacking)
end
redis.call('DEL', record) -- Before any command that allocates: see batch.lua.

if decided ~= '' and redis.call('GET', decided) == 'dropped' then
  fenced = {} -- Another node has found this one dead, and decided that it is not settled.
  for d = 1, which do
    fenced[d] = d - 1
  end
end

if #fenced == 0 and not trouble then
  local left = {}
  for s = 2, #KEYS do
    local prefix, ids = prefixes[s], {}
    local level = level_of(prefix, KEYS[s])
    for _, d in ipairs(given[s]) do
      local key, unique = ARGV[d + 3], ARGV[d + 4]
      if key == '' and unique == '' then
        ids[#ids + 1] = ARGV[d]
      elseif #ack_and_delete(KEYS[s], group, { ARGV[d] }) > 0 then
        leave(prefix, place_at(level, ARGV[d]), key ~= '' and key or nil, unique ~= '' and unique or nil)
      end
    end
    left[s] = ids
  end
  -- Those in other slots leave there before the messages arrive, for the same reason: an outbox keeps its order.
  local ends, e = {}, elsewhere
  for _ = 1, ARGV[elsewhere - 1] do
    ends[#ends + 1] = away.act(ARGV[e], unpack(ARGV, e + 2, e + 1 + ARGV[e + 1]))
    e = e + 2 + ARGV[e + 1]
  end
  local touched = {}
  i = 5
  for _ = 1, published do
    local ending = i + 5 + ARGV[i + 5]
    local _, problem = send(prefixes[2], i, touched)
    if problem then
      trouble = 'the source ' .. ARGV[i] .. ': ' .. problem
      break
    end
    i = ending + 1
  end
  which = 0
  for s = 2, trouble and 1 or #KEYS do
    for _, d in ipairs(given[s]) do
      if ARGV[d + 5] ~= '' then
        local outcome, ttl, claim, reply_to, lived = ARGV[d + 5], ARGV[d + 6], ARGV[d + 7], ARGV[d + 8], d + 10 + ARGV[d + 10]
        if not store_outcome(prefixes[s], ARGV[d + 2], outcome, ttl, claim, reply_to, false, d + 11, lived) then
          notes[#notes + 1] = which
          notes[#notes + 1] = 'unclaimed'
        end
      end
      which = which + 1
    end
    ack_and_delete(KEYS[s], group, left[s])
  end
  if decided ~= '' and not trouble then
    redis.call('SET', decided, 'settled', 'EX', DECIDED_SECONDS)
  elseif trouble then
    for _, entry in ipairs(ends) do
      redis.call('XDEL', 'actorwork:{' .. KEYS.tag .. '}:outbox', entry)
    end
  end
  join_all()
end

local answer = { number, fenced, trouble and #fenced == 0 and { 0, trouble } or {}, notes }
redis.call('SET', record, cmsgpack.pack(answer), 'PX', RECORD_MS)
return answer
