-- Whether a settlement can publish. (A part: scripts begin with the parts they need.)

local known_problems = {}

-- Whether a message is for a source in another slot of a cluster, which this script cannot reach: its prefix then begins with
-- '>'. Such a message is put into the outbox of the source that is settled, and forwarded from there (streams/outbox.py).
local function is_elsewhere(prefix)
  return string.byte(prefix) == 62
end

-- Why nothing can be published to a source; '' if it can. Asked once for each source of a batch. The code NOPERM marks a right
-- that may be given back: the node tries again for a minute.
local function problem_with(source, prefix)
  if is_elsewhere(prefix) then
    return '' -- It is found out when the message is forwarded.
  end
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
  if is_elsewhere(prefix) then
    return ''
  end
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

-- Keeps the message that begins at ARGV[m] (its source), or puts it into the outbox of the source with the prefix `own`.
-- Returns as `keep` does.
local function send(own, m, touched)
  local ending = m + 5 + ARGV[m + 5]
  if not is_elsewhere(ARGV[m + 1]) then
    return keep(ARGV[m + 1], ARGV[m + 2], ARGV[m + 3], ARGV[m + 4], m + 6, ending, touched)
  end
  local added = redis.pcall(
    'XADD', own .. 'outbox', '*', 'to', ARGV[m], 'mark', ARGV[m + 2], 'bit', ARGV[m + 3], 'terms', ARGV[m + 4],
    unpack(ARGV, m + 6, ending)
  )
  if type(added) == 'table' and added.err then
    return false, added.err
  end
  return true
end
