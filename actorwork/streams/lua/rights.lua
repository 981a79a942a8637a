-- What this user may do, asked before anything is done. (A part: scripts begin with the parts they need.)
--
-- A script cannot be undone: a command that is refused halfway (a right was taken away) leaves what was written before it. The
-- second try would write that again, or find the mark of a message that was never written. Redis 7.0 answers in advance, in
-- half a microsecond. For 6.2 the commands that matter most are run with arguments that change nothing (no entry has the id
-- 0-0); for all others the answer is yes there.

local HARMLESS = { XADD = true, XACK = true, XDEL = true }

local may = redis.acl_check_cmd or function(command, ...)
  local reply = HARMLESS[command] and redis.pcall(command, ...)
  local problem = type(reply) == 'table' and reply.err
  return not (problem and string.find(problem, 'The user executing the script', 1, true))
end

local known_rights = {}

-- Why this user may not do all that is needed to do something; false if it may. `needs` returns commands, and each script asks
-- it once for each `what`. The code NOPERM marks an error that passes when the right is given back.
local function lacks(what, needs, ...)
  local known = known_rights[what]
  if known == nil then
    known = false
    for _, command in ipairs(needs(...)) do
      if not may(unpack(command)) then
        local key = command[command.key or 2]
        known = 'NOPERM this user may not run ' .. command[1] .. (key and ' on ' .. key or '')
        break
      end
    end
    known_rights[what] = known
  end
  return known
end

local function needs_of_ack(stream, group)
  return { { 'XACK', stream, group, '0-0' }, { 'XDEL', stream, '0-0' }, { 'XINFO', 'GROUPS', stream, key = 3 } }
end

-- More, if other groups read the stream too.
local function needs_of_sharing(stream, group)
  local near = beside(stream)
  return {
    { 'SMEMBERS', near .. 'groups' }, { 'SMISMEMBER', near .. 'acked:', '' }, { 'SADD', near .. 'acked:' .. group, '' },
    { 'SREM', near .. 'acked:', '' }, { 'XPENDING', stream, group },
  }
end

local function needs_of_dead_letter(stream, prefix)
  return {
    { 'TIME' }, { 'XRANGE', stream, '0-0', '0-0' }, { 'XADD', prefix .. 'dead', '0-0', 'id', '' },
    { 'XTRIM', prefix .. 'dead', 'MINID', 0 },
  }
end

local function needs_of_delay(prefix)
  return { { 'TIME' }, { 'ZADD', prefix .. 'delayed', 0, '' }, { 'HSET', prefix .. 'delayed:messages', '', '' } }
end

local function needs_of_order(prefix)
  return {
    { 'HGET', prefix .. 'keys', '' }, { 'HSET', prefix .. 'keys', '', '' }, { 'HSET', prefix .. 'waiting', '', '' },
    { 'RPUSH', prefix .. 'key:', '' }, { 'SADD', prefix .. 'priorities', '' }, { 'SMEMBERS', prefix .. 'groups' },
    { 'GET', prefix .. 'unique:' }, { 'SET', prefix .. 'unique:', '' },
  }
end

local function needs_of_leaving(prefix)
  return {
    { 'HGET', prefix .. 'keys', '' }, { 'HSET', prefix .. 'keys', '', '' }, { 'HDEL', prefix .. 'keys', '' },
    { 'LPOP', prefix .. 'key:' }, { 'LPUSH', prefix .. 'key:', '' },
    { 'GET', prefix .. 'unique:' }, { 'SET', prefix .. 'unique:', '' }, { 'DEL', prefix .. 'unique:' },
  }
end

local function needs_of_result(prefix)
  return { { 'SET', prefix .. 'result:', '' }, { 'GET', prefix .. 'claim:' }, { 'SET', prefix .. 'claim:', '' } }
end
